"""What can be known of a policy without a call: proofs, differences, explanations. The gateway needs none of it."""
