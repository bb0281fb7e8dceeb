"""Make a checkpoint that the scan trusts, from a folder of labelled images."""
