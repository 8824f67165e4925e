"""Voices over HTTP: `api` speaks HTTP, `voice` speaks, `ray_serve` runs both on Ray."""
