"""What runs inside the containers, and the command lines that start it. Imports nothing outside this folder."""
