"""Record versions -> events -> deliveries."""
