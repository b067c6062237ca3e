// Command pulumi-resource-kubernetes is Pulumi's Kubernetes provider at its release 4.25.0. The
// module carries the schema without a version; generate.go sets it and makes both files small.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
)

//go:generate go run generate.go

//go:embed schema-embed.json
var schema []byte

//go:embed terraform-mapping-embed.json
var terraformMapping []byte

func main() {
	provider.Serve("kubernetes", "4.25.0", schema, terraformMapping)
}
