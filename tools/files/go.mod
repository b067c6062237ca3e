module tools/files

go 1.26

require (
	github.com/kedacore/keda/v2 v2.21.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
	github.com/pulumi/pulumi/sdk/v3 v3.259.0
	sigs.k8s.io/cluster-api v1.14.2
	sigs.k8s.io/gateway-api v1.6.1
	sigs.k8s.io/gateway-api-inference-extension v1.2.0
	sigs.k8s.io/kueue v0.14.0
	sigs.k8s.io/kwok v0.8.0
	sigs.k8s.io/lws v0.7.0
)
