"""From Python: a folder of photographs painted, and the run that it left looked at.

Run it where there are a folder `photos` and a picture `painting.jpg`.
"""

import pixgrad

run = pixgrad.style("photos", "painted", "painting.jpg", preset="quick", size=64, iterations=5)

rows = run.table(["uri", "status", "error", "total_loss"])
print(rows.num_rows, "outputs,", rows.column("status").to_pylist().count("failed"), "of them failed")

for row, picture in run.images():
    print(row["uri"], picture.size, f"loss {row['total_loss']:.2f}")

same = pixgrad.open_run("painted")  # later, and from anywhere
print(same.facts["state"], "in", same.path)

# What a job file holds, as a dict.
audit = pixgrad.run(
    {
        "source": "photos",
        "output": "runs/audit",
        "model": {"name": "efficientnet_lite0"},
        "images": {"frame": [64, 64]},
        "attribution": {"target": "predicted", "rule": {"trapezoid": 4}},
    }
)
for row, attribution in audit.maps():
    print(row["uri"], row["target_name"], f"{row['probability']:.0%}", attribution.shape, attribution.dtype)
