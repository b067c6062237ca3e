//go:build ignore

// Writes the two embedded files from the pinned module.
package main

import (
	"encoding/json"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "github.com/pulumi/pulumi-kubernetes/provider/v4"

func main() {
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		log.Fatalf("finding %s: %v", module, err)
	}
	source := filepath.Join(strings.TrimSpace(string(folder)), "cmd", "pulumi-resource-kubernetes")
	compact(filepath.Join(source, "schema.json"), "schema-embed.json", map[string]any{"version": "4.25.0"})
	compact(filepath.Join(source, "terraform-mapping.json"), "terraform-mapping-embed.json", nil)
}

// compact rewrites a JSON object without white space, with the given fields set.
func compact(from, to string, set map[string]any) {
	text, err := os.ReadFile(from)
	if err != nil {
		log.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(text, &value); err != nil {
		log.Fatalf("%s: %v", from, err)
	}
	for key, field := range set {
		value[key] = field
	}
	if text, err = json.Marshal(value); err != nil {
		log.Fatalf("%s: %v", from, err)
	}
	if err := os.WriteFile(to, text, 0o644); err != nil {
		log.Fatal(err)
	}
}
