"""The three algorithms on tensors, as in a notebook: no Ray, no run, no files but those you write.

Run it where there are pictures `photo.jpg` and `painting.jpg`. The sizes and counts are small, to be quick.
"""

import pixgrad

network = pixgrad.load_network("efficientnet_lite0")
photo = pixgrad.read_image("photo.jpg", short_side=96)  # 1 x 3 x H x W, RGB in [0, 1]

dreamed = pixgrad.dream(network, photo, layers=["blocks.3"], octaves=2, iterations=2)
print("objective", dreamed.objective_first.item(), "->", dreamed.objective_last.item())
pixgrad.to_images(dreamed.images)[0].save("dream.png")

painting = pixgrad.read_image("painting.jpg", short_side=96)
painted = pixgrad.stylise(network, photo, painting, iterations=5, style_weight=10)
print("losses", painted.content_loss.item(), painted.style_loss.item())
pixgrad.to_images(painted.images)[0].save("painted.png")

square = pixgrad.read_image("photo.jpg", frame=(96, 96))
[explained] = pixgrad.integrated_gradients(network, square, ["tabby"], baseline="blur", rule={"gauss_legendre": 8})
print("completeness delta", explained.completeness_delta, "after", explained.evaluations, "gradients")
pixgrad.draw_map(explained, square[0]).save("why.png")
