"""image_decoder: a process for one image. It decodes, hands the pixels on, and ends."""
