"""The networks: tensors in, tensors out, nothing about files, hubs, thresholds or people's pictures."""
