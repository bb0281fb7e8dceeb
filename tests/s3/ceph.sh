#!/usr/bin/env bash
# A real S3 server on loopback for the full test suite: one-node Ceph with its object gateway, all of it in memory.
#
#   ceph.sh start DIR [PORT]    start it (default port 7480) and print the environment to export
#   ceph.sh stop DIR            stop it and remove DIR
#
# Needs Debian's or Ubuntu's Ceph packages, and installs them with apt-get where they are missing and it runs as root.
# It listens on 127.0.0.1 only, and its keys are fixed: they protect nothing. A second server needs another DIR and
# another PORT; its monitor takes the two ports after PORT. DIR must be absent, empty, or an earlier server's.
set -euo pipefail

readonly PACKAGES=(radosgw ceph-mon ceph-osd ceph-mgr ceph-common)
readonly PROGRAMS=(radosgw radosgw-admin ceph-mon ceph-osd ceph-mgr ceph ceph-authtool monmaptool)
readonly ACCESS_KEY=testtesttest SECRET_KEY=testsecrettestsecret REGION=us-east-1
readonly MARK=.nsfwscan-ceph # only a directory that holds this file is ever removed

die() { echo "ceph.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

missing_programs() {
  local program
  for program in "${PROGRAMS[@]}"; do command -v "$program" >/dev/null || echo "$program"; done
}

install_packages() {
  local missing
  missing=$(missing_programs)
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || die "no ${missing//$'\n'/, } here and no apt-get to install it with: install Ceph" \
    "(${PACKAGES[*]}) by this system's own means, or leave out the tests marked 'full'"
  [ "$(id -u)" = 0 ] || die "no ${missing//$'\n'/, } here: run 'apt-get install ${PACKAGES[*]}' as root"
  echo "ceph.sh: installing ${PACKAGES[*]}" >&2
  apt-get update -qq >/dev/null || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null ||
    die "apt-get could not install ${PACKAGES[*]}"
  missing=$(missing_programs)
  [ -z "$missing" ] || die "the packages are installed, but ${missing//$'\n'/, } is still missing"
}

remove_directory() {
  [ -e "$dir" ] || return 0
  [ -d "$dir" ] || die "$dir is not a directory"
  [ -e "$dir/$MARK" ] || [ -z "$(ls -A "$dir")" ] || die "$dir is not empty and not a server of ours: left alone"
  rm -rf "$dir"
}

# The daemons of this server that live: those whose command line names its configuration. The number alone may by now
# belong to someone else, and a dead one that nobody has waited for yet has no command line.
live_pids() {
  local file pid
  for file in "$dir"/*.pid; do
    [ -s "$file" ] || continue
    pid=$(<"$file")
    if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "-c $dir/ceph.conf "; then echo "$pid"; fi
  done 2>/dev/null
}

stop_server() {
  local pid
  [ ! -e "$dir" ] || [ -e "$dir/$MARK" ] || [ -z "$(ls -A "$dir")" ] || die "$dir holds no server of ours"
  # Nothing of it is kept, so nothing needs an orderly end, which takes the object store seconds.
  for pid in $(live_pids); do kill -9 "$pid" 2>/dev/null || true; done
  for _ in $(seq 40); do
    [ -n "$(live_pids)" ] || break
    sleep 0.25
  done
  remove_directory
}

write_config() {
  cat >"$conf" <<EOF
[global]
fsid = $fsid
mon host = $mon_address
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = $dir
admin socket = $dir/\$name.asok
log file = $dir/\$name.log
pid file = $dir/\$name.pid
keyring = $dir/keyring
[mon.a]
mon data = $dir/mon
[mgr.a]
mgr data = $dir/mgr
[osd.0]
osd data = $dir/osd
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dns name = 127.0.0.1
EOF
}

key() { ceph-authtool "$dir/keyring" --gen-key -n "$@"; }
ceph_command() { ceph -c "$conf" --connect-timeout 5 "$@"; }
osd_is_up() { ceph_command osd stat | grep -q '1 up'; }
gateway_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

wait_for() { # SECONDS WHAT COMMAND…
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || { echo "gave up waiting for $what" >&2; return 1; }
    sleep 0.25
  done
}

bring_up() {
  write_config
  ceph-authtool --create-keyring "$dir/keyring"
  key mon. --cap mon 'allow *'
  key client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  key mgr.a --cap mon 'allow profile mgr' --cap osd 'allow *'
  key osd.0 --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
  key client.rgw.a --cap mon 'allow rwx' --cap osd 'allow rwx'
  monmaptool --create --addv a "$mon_address" --fsid "$fsid" "$dir/monmap"
  ceph-mon -c "$conf" -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring"
  ceph-mon -c "$conf" -i a
  wait_for 30 'the monitor' ceph_command status
  ceph_command auth import -i "$dir/keyring"
  ceph-mgr -c "$conf" -i a
  ceph_command osd create
  ceph-osd -c "$conf" -i 0 --mkfs
  ceph_command osd crush add osd.0 1.0 root=default host=localhost
  ceph-osd -c "$conf" -i 0
  wait_for 60 'the object store' osd_is_up
  radosgw -c "$conf" -n client.rgw.a
  wait_for 90 'the gateway' gateway_answers
  radosgw-admin -c "$conf" user create --uid=test --display-name=test \
    --access-key="$ACCESS_KEY" --secret-key="$SECRET_KEY"
}

start_server() {
  install_packages
  [ -z "$(live_pids)" ] || die "a server runs in $dir already: stop it first"
  remove_directory
  ! gateway_answers || die "port $port is taken: give another one"
  mkdir -p "$dir"/{mon,mgr,osd}
  : >"$dir/$MARK"
  conf=$dir/ceph.conf fsid=$(</proc/sys/kernel/random/uuid)
  mon_address="[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]"
  # The daemons detach; without this they would hold the caller's pipes open. `set -e` inside a function is off where
  # the function is part of a condition, hence the subshell with a status of its own.
  set +e
  (set -e; bring_up) >"$dir/start.log" 2>&1 </dev/null
  local status=$?
  set -e
  if [ "$status" != 0 ]; then
    echo "ceph.sh: the server did not come up; the end of its log:" >&2
    tail -n 15 "$dir/start.log" >&2
    stop_server
    exit 1
  fi
  echo "export AWS_ENDPOINT_URL=http://127.0.0.1:$port"
  echo "export AWS_ACCESS_KEY_ID=$ACCESS_KEY"
  echo "export AWS_SECRET_ACCESS_KEY=$SECRET_KEY"
  echo "export AWS_DEFAULT_REGION=$REGION"
}

[ $# -ge 2 ] && [ -n "$2" ] || usage
dir=$(realpath -m "$2") port=${3:-7480}
[[ $port =~ ^[0-9]+$ ]] && [ "$port" -gt 1023 ] && [ "$port" -lt 65534 ] || die "PORT must be in 1024–65533: $port"
[ "$dir" != / ] || die "DIR cannot be /"
case $1 in
  start) start_server ;;
  stop) stop_server ;;
  *) usage ;;
esac
