//go:build generate

// Writes manager/main.go: the pinned module's own, with the certificate of its metrics beside that
// of its webhooks. The module looks for it in /etc and nowhere else.
package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:generate go run generate.go

const module = "sigs.k8s.io/kueue"

func main() {
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		log.Fatalf("finding %s: %v", module, err)
	}
	source := filepath.Join(strings.TrimSpace(string(folder)), "cmd", "kueue", "main.go")
	replace(source, `"/etc/kueue/metrics/certs"`, `cfg.Webhook.CertDir`, "manager")
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
