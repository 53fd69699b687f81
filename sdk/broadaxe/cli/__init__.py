"""The `broadaxe` command. Server parts are imported only by the commands that need them."""
