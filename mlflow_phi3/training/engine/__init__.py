"""The fused engine: gradients and losses of K adapters over one frozen base."""
