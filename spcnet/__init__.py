"""spcnet: domain-generalised semantic segmentation."""
