//go:build generate

// Writes main.go of the adapter and of the webhooks: the pinned module's own, bound to loopback. The
// module lets both listen on every address of the machine.
package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:generate go run generate.go

const module = "github.com/kedacore/keda/v2"

func main() {
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		log.Fatalf("finding %s: %v", module, err)
	}
	commands := filepath.Join(strings.TrimSpace(string(folder)), "cmd")
	replace(filepath.Join(commands, "adapter", "main.go"), `":%v"`, `"127.0.0.1:%v"`, "adapter")
	replace(filepath.Join(commands, "webhooks", "main.go"), `Port:    webhooksPort,`,
		`Host: "127.0.0.1", Port: webhooksPort,`, "webhooks")
}

// replace writes main.go of a new package: another main.go with one place of it changed.
func replace(source, old, new, target string) {
	text, err := os.ReadFile(source)
	if err != nil {
		log.Fatal(err)
	}
	if found := strings.Count(string(text), old); found != 1 {
		log.Fatalf("%s stands %d times in %s", old, found, source)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		log.Fatal(err)
	}
	changed := strings.Replace(string(text), old, new, 1)
	if err := os.WriteFile(filepath.Join(target, "main.go"), []byte(changed), 0o644); err != nil {
		log.Fatal(err)
	}
}
