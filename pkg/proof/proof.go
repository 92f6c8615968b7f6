// Package proof makes what lets others check an image without trusting who made it: software bills of materials in
// CycloneDX and SPDX, a signed statement of how the image came to be (in-toto, SLSA), and the check of both against
// the bytes. Everything in them was read from the finished disk or counted while it was made.
package proof

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/errs"
)

// The kinds of documents that an image has.
const (
	KindCycloneDX  = "cyclonedx"
	KindSPDX       = "spdx"
	KindProvenance = "provenance"   // the signed statement
	KindFiles      = "files"        // the manifest, one file a line
	KindConsole    = "boot-console" // of the test boot
	KindLock       = "lock"
)

// Media types of the documents.
const (
	MediaCycloneDX  = "application/vnd.cyclonedx+json; version=1.6"
	MediaSPDX       = "application/spdx+json"
	MediaProvenance = "application/vnd.dsse.envelope.v1+json"
	MediaFiles      = "application/jsonl"
	MediaText       = "text/plain; charset=utf-8"
	MediaYAML       = "application/yaml"
)

// MaxPacked is the most that one document may take in the store, packed, in bytes.
const MaxPacked = 64 << 20

// MaxDocument bounds a document unpacked, in bytes: what is larger was packed to fill a memory.
const MaxDocument = 1 << 30

// Document is one text about an image.
type Document struct {
	ImageID   string    `json:"image_id"`
	Kind      string    `json:"kind"`
	MediaType string    `json:"media_type"`
	SHA256    string    `json:"sha256"` // hex, of the text
	Size      int64     `json:"size"`   // bytes of the text
	CreatedAt time.Time `json:"created_at"`
	Packed    []byte    `json:"-"` // the text as gzip; nil where only the rest was asked for
}

// Store keeps documents.
type Store interface {
	// PutDocuments writes documents of the image; those of the same kind are replaced.
	PutDocuments(ctx context.Context, imageID string, docs []Document) error
	// ListDocuments lists what an image has, by kind, without the texts.
	ListDocuments(ctx context.Context, imageID string) ([]Document, error)
	// FindDocument reads one with its text; errs.NotFound where the image has none of the kind.
	FindDocument(ctx context.Context, imageID, kind string) (Document, error)
	// DeleteDocuments removes all that an image has; none is no error.
	DeleteDocuments(ctx context.Context, imageID string) error
}

// NewDocument packs a text. The same text gives the same bytes.
func NewDocument(kind, mediaType string, text []byte, now time.Time) (Document, error) {
	return pack(kind, mediaType, now, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// pack is NewDocument for a text that is written piece by piece.
func pack(kind, mediaType string, now time.Time, write func(io.Writer) error) (Document, error) {
	var packed bytes.Buffer
	zip, sum, count := gzip.NewWriter(&packed), sha256.New(), counter(0)
	if err := write(io.MultiWriter(zip, sum, &count)); err != nil {
		return Document{}, err
	}
	if err := zip.Close(); err != nil {
		return Document{}, err
	}
	if packed.Len() > MaxPacked {
		return Document{}, errs.New(errs.TooLarge, "kiln.document.size", "document %s takes %d bytes packed; %d are kept at most", kind, packed.Len(), MaxPacked)
	}
	return Document{
		Kind: kind, MediaType: mediaType, SHA256: hex.EncodeToString(sum.Sum(nil)), Size: int64(count), CreatedAt: now.UTC(), Packed: packed.Bytes(),
	}, nil
}

type counter int64

// Write counts.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Open reads the text.
func (d Document) Open() (io.Reader, error) {
	zip, err := gzip.NewReader(bytes.NewReader(d.Packed))
	if err != nil {
		return nil, errs.Wrap(err, errs.Internal, "kiln.document.packed", "document %s of image %s cannot be unpacked", d.Kind, d.ImageID)
	}
	return io.LimitReader(zip, MaxDocument), nil
}

// Text reads the whole text.
func (d Document) Text() ([]byte, error) {
	r, err := d.Open()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Digests are names of one content, by algorithm ("sha256", "sha512"), in hex.
type Digests map[string]string

// DigestsOf reads all of r and gives both its digests and its length. Reading ends with ctx.
func DigestsOf(ctx context.Context, r io.Reader) (Digests, int64, error) {
	short, long := sha256.New(), sha512.New()
	n, err := io.CopyBuffer(both{short, long}, reader{ctx, r}, make([]byte, 1<<20))
	if err != nil {
		return nil, n, err
	}
	return Digests{"sha256": hex.EncodeToString(short.Sum(nil)), "sha512": hex.EncodeToString(long.Sum(nil))}, n, nil
}

// FileDigests is DigestsOf a file.
func FileDigests(ctx context.Context, path string) (Digests, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	return DigestsOf(ctx, f)
}

// both writes to two hashes at once: together they would take the time of both.
type both struct{ a, b hash.Hash }

// Write gives p to both; the Write of a hash never fails.
func (w both) Write(p []byte) (int, error) {
	var wg sync.WaitGroup
	wg.Go(func() { w.a.Write(p) })
	w.b.Write(p)
	wg.Wait()
	return len(p), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // io.Reader has none
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
