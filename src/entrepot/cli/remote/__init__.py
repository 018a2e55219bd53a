"""What the commands that work on a control plane share: the connection, its answers, what is shown of them."""
