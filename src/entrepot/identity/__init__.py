"""Who calls: tokens and certificates, made and verified. Knows nothing of what anybody may do."""
