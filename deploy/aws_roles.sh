#!/usr/bin/env bash
# A bucket, and the roles of ray_cluster.yaml's nodes: the head may start and end machines and use the bucket, workers
# may use the bucket. Once an account and bucket:
#   deploy/aws_roles.sh YOUR-BUCKET us-east-1
set -euo pipefail
export AWS_PAGER=
bucket=${1:?name of the bucket} region=${2:?region of ray_cluster.yaml}
account=$(aws sts get-caller-identity --query Account --output text)

machines='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
of_bucket='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
   "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}]}'
of_head='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["ec2:*", "ssm:GetParameters", "ssm:GetParameter"], "Resource": "*",
   "Condition": {"StringEquals": {"aws:RequestedRegion": "'$region'"}}},
  {"Effect": "Allow", "Action": ["iam:PassRole"], "Resource": "arn:aws:iam::'$account':role/dimts-worker"},
  {"Effect": "Allow", "Action": ["iam:GetInstanceProfile", "iam:CreateServiceLinkedRole"], "Resource": "*"}]}'

placed=(); [ "$region" = us-east-1 ] || placed=(--create-bucket-configuration "LocationConstraint=$region")
aws s3api head-bucket --bucket "$bucket" > /dev/null 2>&1 ||
  aws s3api create-bucket --bucket "$bucket" --region "$region" "${placed[@]}" > /dev/null
aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
# Parts of uploads that were never finished cost as much as whole ones.
aws s3api put-bucket-lifecycle-configuration --bucket "$bucket" --lifecycle-configuration '{"Rules": [
  {"ID": "unfinished", "Status": "Enabled", "Filter": {"Prefix": ""},
   "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}]}'

for name in dimts-head dimts-worker; do
  aws iam get-role --role-name $name > /dev/null 2>&1 || {
    aws iam create-role --role-name $name --assume-role-policy-document "$machines" > /dev/null
    aws iam create-instance-profile --instance-profile-name $name > /dev/null
    aws iam add-role-to-instance-profile --instance-profile-name $name --role-name $name
  }
  aws iam put-role-policy --role-name $name --policy-name "bucket-$bucket" --policy-document "$of_bucket"
done
aws iam put-role-policy --role-name dimts-head --policy-name machines --policy-document "$of_head"
echo "put $bucket into ray_cluster.yaml for YOUR-BUCKET"
