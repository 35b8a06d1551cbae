"""What answers asks. One engine a file or folder; `base` has the protocol, `law` the law a token is drawn from."""
