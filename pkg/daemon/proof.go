package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/proof"
)

// signer is the key of [build] signing_key; nil where none is configured. A key that is configured and cannot be read is
// an error: images without a statement would be a surprise.
func (p *Parts) signer() (*proof.Signer, error) {
	path := p.Config.Build.SigningKey
	if path == "" {
		p.Log.Warning("no [build] signing_key: images get no signed statement of how they were made (kiln-manage proof key makes a key)")
		return nil, nil
	}
	s, err := proof.LoadSigner(path)
	if err == nil {
		p.Log.WithField("key", s.Key.ID).Info("statements about images are signed")
	}
	return s, err
}

// proofKeys are what the API names to those who check images. A file that cannot be read is told in the log and left out: the
// API is needed for more than this.
func (p *Parts) proofKeys() []proof.Key {
	files := p.Config.Build.TrustedKeys
	if own := p.Config.Build.SigningKey; own != "" {
		if _, err := os.Stat(own); !errors.Is(err, fs.ErrNotExist) { // it is on the workers' hosts, and need not be here
			files = append([]string{own}, files...)
		}
	}
	var keys []proof.Key
	seen := map[string]bool{}
	for _, file := range files {
		found, err := proof.LoadKeys(file)
		if err != nil {
			p.Log.WithError(err).WithField("file", file).Error("a key that statements are checked with cannot be used")
			continue
		}
		for _, k := range found {
			if !seen[k.ID] {
				keys, seen[k.ID] = append(keys, k), true
			}
		}
	}
	return keys
}

// manifestFile lists the files of a disk.
func manifestFile(ctx context.Context, path, format string) ([]catalog.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect.Manifest(ctx, f, info.Size(), format)
}
