"""Real trainings and preparations, and what is done to them: kills, lost nodes, full disks."""
