"""Real S3 servers for the tests: moto and Ceph behind one description, and a proxy that makes them fail on demand."""
