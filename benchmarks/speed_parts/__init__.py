"""What the speed scripts run: models with random weights, and questions to ask them."""
