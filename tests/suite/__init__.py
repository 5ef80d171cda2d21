"""What `bash scripts/test.sh` runs: stages as data, what each needs of the machine, and who runs them."""
