"""The two paths behind the door: changes travel in batches that rules decide, reads share their statements."""
