"""What a server must survive, tried on one that runs: kills, leaving clients, hours of load."""
