"""The device room: the daemon's side of the tokens, and the host processes that hold them."""
