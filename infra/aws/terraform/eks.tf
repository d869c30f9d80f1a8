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
  scaling_config {
    min_size     = 1
    desired_size = 1
    max_size     = 8
  }
}

resource "aws_eks_node_group" "gpu" {
  count           = var.cluster == "" ? 0 : 1
  cluster_name    = var.cluster
  node_group_name = "infill-gpu-spot"
  node_role_arn   = aws_iam_role.eks_nodes[0].arn
  subnet_ids      = var.subnets
  instance_types  = ["g6.4xlarge", "g6.8xlarge"] # One L4 each, as the label of the group of workers says.
  capacity_type   = "SPOT"
  ami_type        = "AL2023_x86_64_NVIDIA"
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
