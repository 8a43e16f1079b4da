"""Gates: what shows that the store keeps its promises, and would show it if it didn't."""
