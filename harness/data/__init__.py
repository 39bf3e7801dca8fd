"""Safe reading of MMSA files, synthetic stand-ins, batches and occlusion."""
