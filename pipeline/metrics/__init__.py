"""Image quality: per image (PSNR, SSIM, L1), by networks (LPIPS), and per set (FID, KID)."""
