"""The commands that the documents tell a reader to type, found and judged; CONTRIBUTING.md explains the markers."""
