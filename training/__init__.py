"""From a folder of labelled images to a checkpoint that the scan trusts."""
