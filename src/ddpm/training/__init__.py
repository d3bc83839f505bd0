"""From images to weights: settings, batches, loss, EMA, history, the loop, states to resume from, the session around it."""
