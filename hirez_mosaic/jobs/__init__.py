"""What the commands do: render, batch, train, compare and the rest."""
