"""The command line: each verb parses its words, calls the package, prints the result and sets the exit code."""
