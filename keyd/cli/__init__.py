"""The commands keyd-server and keydctl: arguments in, sentences and exit codes out."""
