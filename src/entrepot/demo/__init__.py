"""`entrepot demo`: the main job, walked through on a running `entrepot serve`."""
