# terraform apply -var bucket=infill-example -var cluster=infill -var 'subnets=["subnet-a","subnet-b"]'
# Node groups of an EKS cluster that is there already; none without one.
data "aws_iam_policy_document" "eks_nodes_assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "eks_nodes" {
  count              = var.cluster == "" ? 0 : 1
  name               = "infill-eks-nodes"
  assume_role_policy = data.aws_iam_policy_document.eks_nodes_assume.json
}

resource "aws_iam_role_policy_attachment" "eks_nodes" {
  for_each = var.cluster == "" ? toset([]) : toset([
    "arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy",
    "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy",
    "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly",
  ])
  role       = aws_iam_role.eks_nodes[0].name
  policy_arn = each.value
}

resource "aws_eks_node_group" "cpu" {
  count           = var.cluster == "" ? 0 : 1
  cluster_name    = var.cluster
  node_group_name = "infill-cpu"
  node_role_arn   = aws_iam_role.eks_nodes[0].arn
  subnet_ids      = var.subnets
  instance_types  = ["c7i.4xlarge"]
  disk_size       = 200 # Images, and the shard caches of the pods.
  scaling_config {
    min_size     = 1
    desired_size = 1
    max_size     = 8
  }
}

# One L4 each, as the label of the group of workers says. On demand for overlays/gpu, on spot for
# overlays/spot. CUDA 13.0 needs the NVIDIA driver 580.65.06 or newer: see var.gpu_ami_release.
resource "aws_eks_node_group" "gpu" {
  count           = var.cluster == "" ? 0 : 1
  cluster_name    = var.cluster
  node_group_name = "infill-gpu"
  node_role_arn   = aws_iam_role.eks_nodes[0].arn
  subnet_ids      = var.subnets
  instance_types  = ["g6.4xlarge", "g6.8xlarge"]
  capacity_type   = "ON_DEMAND"
  ami_type        = "AL2023_x86_64_NVIDIA"
  release_version = var.gpu_ami_release
  disk_size       = 200
  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = 8
  }
  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }
}

resource "aws_eks_node_group" "gpu_spot" {
  count           = var.cluster == "" ? 0 : 1
  cluster_name    = var.cluster
  node_group_name = "infill-gpu-spot"
  node_role_arn   = aws_iam_role.eks_nodes[0].arn
  subnet_ids      = var.subnets
  instance_types  = ["g6.4xlarge", "g6.8xlarge"]
  capacity_type   = "SPOT"
  ami_type        = "AL2023_x86_64_NVIDIA"
  release_version = var.gpu_ami_release
  disk_size       = 200
  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = 8
  }
  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }
  taint {
    key    = "infill.dev/spot"
    value  = "true"
    effect = "NO_SCHEDULE"
  }
}

# Eight H100 and 30 TB of NVMe each, for overlays/gpu8.
resource "aws_launch_template" "gpu8" {
  name_prefix = "infill-gpu8-"
  user_data   = filebase64("${path.module}/local-disks.mime")
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size = 200
      volume_type = "gp3"
      encrypted   = true
    }
  }
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
  }
}

resource "aws_eks_node_group" "gpu8" {
  count           = var.cluster == "" ? 0 : 1
  cluster_name    = var.cluster
  node_group_name = "infill-gpu8"
  node_role_arn   = aws_iam_role.eks_nodes[0].arn
  subnet_ids      = var.subnets
  instance_types  = ["p5.48xlarge"]
  capacity_type   = "ON_DEMAND"
  ami_type        = "AL2023_x86_64_NVIDIA"
  release_version = var.gpu_ami_release
  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = 32
  }
  launch_template {
    id      = aws_launch_template.gpu8.id
    version = aws_launch_template.gpu8.latest_version
  }
  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }
}

# The cluster autoscaler does not know the disks of a group without nodes, and would start none for a
# pod that asks for disk.
locals {
  disks = var.cluster == "" ? {} : {
    cpu      = { group = aws_eks_node_group.cpu[0], size = "180Gi" }
    gpu      = { group = aws_eks_node_group.gpu[0], size = "180Gi" }
    gpu_spot = { group = aws_eks_node_group.gpu_spot[0], size = "180Gi" }
    gpu8     = { group = aws_eks_node_group.gpu8[0], size = "25Ti" }
  }
}

resource "aws_autoscaling_group_tag" "disks" {
  for_each               = local.disks
  autoscaling_group_name = each.value.group.resources[0].autoscaling_groups[0].name
  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"
    value               = each.value.size
    propagate_at_launch = false
  }
}
