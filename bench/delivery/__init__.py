"""What delivery costs: how late events are live and durably, and what hostile messages take from inspection."""
