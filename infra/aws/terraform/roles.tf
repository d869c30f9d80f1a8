# terraform apply -var bucket=infill-example
# Pods and machines may read and write the bucket, and nothing else.
data "aws_iam_policy_document" "store" {
  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.store.arn]
  }
  statement {
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.store.arn}/*"]
  }
}

resource "aws_iam_policy" "store" {
  name   = "infill-store"
  policy = data.aws_iam_policy_document.store.json
}

# Machines started by `ray up`; the head may start and end workers of its own cluster.
data "aws_iam_policy_document" "machines_assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "nodes" {
  name               = "infill-nodes"
  assume_role_policy = data.aws_iam_policy_document.machines_assume.json
}

resource "aws_iam_instance_profile" "nodes" {
  name = "infill-nodes"
  role = aws_iam_role.nodes.name
}

resource "aws_iam_role_policy_attachment" "nodes_store" {
  role       = aws_iam_role.nodes.name
  policy_arn = aws_iam_policy.store.arn
}

data "aws_iam_policy_document" "autoscaler" {
  statement {
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:RunInstances", "ec2:CreateTags"]
    resources = ["*"]
  }
  statement {
    actions   = ["ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances"]
    resources = ["*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:ResourceTag/ray-cluster-name"
      values   = ["infill"]
    }
  }
  statement {
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.nodes.arn]
  }
}

resource "aws_iam_role_policy" "autoscaler" {
  name   = "infill-autoscaler"
  role   = aws_iam_role.nodes.id
  policy = data.aws_iam_policy_document.autoscaler.json
}

# Pods of the service account `infill` on EKS, and no other.
data "aws_iam_policy_document" "pods_assume" {
  count = var.oidc_provider == "" ? 0 : 1
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider]
    }
    condition {
      test     = "StringEquals"
      variable = "${element(split("oidc-provider/", var.oidc_provider), 1)}:sub"
      values   = ["system:serviceaccount:infill:infill"]
    }
  }
}

resource "aws_iam_role" "pods" {
  count              = var.oidc_provider == "" ? 0 : 1
  name               = "infill-pods"
  assume_role_policy = data.aws_iam_policy_document.pods_assume[0].json
}

resource "aws_iam_role_policy_attachment" "pods_store" {
  count      = var.oidc_provider == "" ? 0 : 1
  role       = aws_iam_role.pods[0].name
  policy_arn = aws_iam_policy.store.arn
}
