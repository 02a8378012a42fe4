"""What TensorBoard shows of a run: curves with phases while it trains, all else when it ends."""
