# terraform apply -var bucket=infill-example -var cluster=infill
variable "region" {
  description = "Where everything lies."
  type        = string
  default     = "eu-central-1"
}

variable "bucket" {
  description = "Name of the bucket; names are shared by all of AWS."
  type        = string
}

variable "oidc_provider" {
  description = "ARN of the EKS cluster's identity provider; empty without EKS."
  type        = string
  default     = ""
}

variable "cluster" {
  description = "Name of the EKS cluster that the node groups belong to; empty without EKS."
  type        = string
  default     = ""
}

variable "subnets" {
  description = "Subnets of the node groups."
  type        = list(string)
  default     = []
}

variable "gpu_ami_release" {
  description = "Release of the AMI of GPU nodes; null for the newest. Its NVIDIA driver must be 580.65.06 or newer."
  type        = string
  default     = null
}
