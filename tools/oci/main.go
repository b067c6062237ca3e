// Command oci-image writes and checks OCI image layouts (https://github.com/opencontainers/image-spec)
// through go-containerregistry: the same input gives the same bytes.
//
//	oci-image write LAYOUT < image.json
//	oci-image verify LAYOUT
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/gzip"
)

// Of a compressor from a pinned module, not from Go's own library: its output then does not change
// with the version of Go. Not zstd, which the library's own check of a layout cannot read.
const level = 4

type layer struct {
	// Path of a tar archive (.tar), or of one that is compressed already.
	Path        string            `json:"path"`
	CreatedBy   string            `json:"created_by"`
	Annotations map[string]string `json:"annotations"`
}

type image struct {
	Name         string    `json:"name"`
	Architecture string    `json:"architecture"`
	Created      v1.Time   `json:"created"`
	Config       v1.Config `json:"config"`
	Layers       []layer   `json:"layers"`
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("call it as: oci-image write|verify LAYOUT"))
	}
	switch command, folder := os.Args[1], os.Args[2]; command {
	case "write":
		fail(write(folder, os.Stdin))
	case "verify":
		fail(verify(folder))
	default:
		fail(fmt.Errorf("there is no command %q", command))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci-image:", err)
		os.Exit(1)
	}
}

func write(folder string, from io.Reader) error {
	var wanted image
	if err := json.NewDecoder(from).Decode(&wanted); err != nil {
		return err
	}
	made, err := assemble(wanted)
	if err != nil {
		return err
	}
	path, err := layout.Write(folder, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	return path.AppendImage(made,
		layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": wanted.Name}),
		layout.WithPlatform(v1.Platform{OS: "linux", Architecture: wanted.Architecture}))
}

func assemble(wanted image) (v1.Image, error) {
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, each := range wanted.Layers {
		packed, err := compressed(each.Path)
		if err != nil {
			return nil, err
		}
		content, err := tarball.LayerFromFile(packed, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", each.Path, err)
		}
		made, err = mutate.Append(made, mutate.Addendum{
			Layer:       content,
			MediaType:   types.OCILayer,
			Annotations: each.Annotations,
			History:     v1.History{Created: wanted.Created, CreatedBy: each.CreatedBy},
		})
		if err != nil {
			return nil, err
		}
	}
	file, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", wanted.Architecture
	file.Created, file.Config = wanted.Created, wanted.Config
	return mutate.ConfigFile(made, file)
}

// compressed returns the path of the compressed archive, written beside it.
func compressed(path string) (string, error) {
	if !strings.HasSuffix(path, ".tar") {
		return path, nil
	}
	source, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer source.Close()
	target, err := os.Create(filepath.Clean(path + ".gz"))
	if err != nil {
		return "", err
	}
	defer target.Close()
	writer, err := gzip.NewWriterLevel(target, level)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(writer, source); err != nil {
		return "", err
	}
	if err := writer.Close(); err != nil {
		return "", err
	}
	return target.Name(), target.Close()
}

func verify(folder string) error {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return err
	}
	return validate.Index(index)
}
