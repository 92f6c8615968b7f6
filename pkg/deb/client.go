package deb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/klauspost/compress/gzip"
	"github.com/sirupsen/logrus"
	"github.com/ulikunitz/xz"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/log"
)

// Limits of what a mirror may answer, in bytes.
const (
	maxRelease  = 4 << 20
	maxList     = 128 << 20 // a compressed Packages
	maxPackages = 1 << 30   // the same, unpacked
)

// ClientConfig says how repositories are read. Only Dir is needed.
type ClientConfig struct {
	Dir     string        // cache of signed lists; made where it is missing
	Keyring string        // default DefaultKeyring
	HTTP    *http.Client  // default http.DefaultClient
	Timeout time.Duration // of one request with its body; default 2 minutes
	Now     func() time.Time
	Log     logrus.FieldLogger
}

// Client reads repositories. Its methods may be called at the same time.
type Client struct {
	cfg  ClientConfig
	keys openpgp.EntityList
	mu   sync.Mutex
	last map[string]parsed // by InRelease URL, components and architecture
}

type parsed struct {
	sum   string
	index *Index
}

// NewClient reads the keyring and makes the cache folder.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Keyring == "" {
		cfg.Keyring = DefaultKeyring
	}
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = log.Discard()
	}
	keys, err := readKeyring(cfg.Keyring)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, keys: keys, last: map[string]parsed{}}, nil
}

// Fetch reads one suite: its InRelease (asked for conditionally, so an unchanged one costs no bytes),
// whose signature, suite and Valid-Until are checked, and the lists that it signs. Unavailable where
// the mirror is away, Invalid where it serves what nobody signed.
func (c *Client) Fetch(ctx context.Context, s Suite) (*Index, error) {
	base := strings.TrimRight(s.Mirror, "/") + "/dists/" + s.Suite + "/"
	data, err := c.conditional(ctx, base+"InRelease")
	if err != nil {
		return nil, err
	}
	rel, err := c.trusted(s.Suite, data)
	if err != nil {
		c.forget(base + "InRelease")
		return nil, err
	}
	key, sum := fmt.Sprintf("%s %v %s", base, s.Components, s.Arch), hashOf(data)
	if ix := c.remembered(key, sum, rel.date); ix != nil {
		return ix, nil
	}
	var all []Candidate
	for _, component := range s.Components {
		found, err := c.packages(ctx, base, rel, component+"/binary-"+s.Arch+"/Packages")
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	ix := NewIndex(s, all)
	ix.Codename, ix.Date, ix.ValidUntil = rel.codename, rel.date, rel.validUntil
	c.mu.Lock()
	c.last[key] = parsed{sum: sum, index: ix}
	c.mu.Unlock()
	return ix, nil
}

// trusted is the release in an InRelease, after all checks.
func (c *Client) trusted(suite string, data []byte) (*release, error) {
	now := c.cfg.Now()
	text, err := verifyRelease(data, c.keys, now)
	if err != nil {
		return nil, err
	}
	rel, err := parseRelease(text)
	if err != nil {
		return nil, err
	}
	return rel, rel.checkFresh(suite, now)
}

// remembered is the index of the same release, or of a later one: an old release with a good signature would take
// fixes back that are known already. Mirrors behind one name are not always equally fresh, so that is no error.
func (c *Client) remembered(key, sum string, date time.Time) *Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.last[key]
	if p.index == nil || p.sum != sum && !date.Before(p.index.Date) {
		return nil
	}
	if p.sum != sum {
		c.cfg.Log.Warnf("%s was written at %s, and one of %s is known: the mirror is behind", key, date.Format(time.RFC3339), p.index.Date.Format(time.RFC3339))
	}
	return p.index
}

// packages fetches, verifies and parses one list. gzip comes first: a pure-Go xz reader is ten
// times slower, and the list is only some MB larger.
func (c *Client) packages(ctx context.Context, base string, rel *release, name string) ([]Candidate, error) {
	for _, ext := range []string{".gz", ".xz"} {
		want, ok := rel.files[name+ext]
		if !ok {
			continue
		}
		address := base + name + ext
		if rel.byHash {
			address = base + name[:strings.LastIndex(name, "/")] + "/by-hash/SHA256/" + want.sha256
		}
		data, err := c.list(ctx, address, want)
		if err != nil {
			return nil, err
		}
		return unpack(data, ext)
	}
	return nil, errs.New(errs.NotFound, "kiln.advisory.list_missing", "%s does not offer %s", base, name)
}

// list gives a file that the release signs, from the cache where it is there and unharmed.
func (c *Client) list(ctx context.Context, address string, want releaseFile) ([]byte, error) {
	if want.size > maxList {
		return nil, errs.New(errs.TooLarge, "kiln.advisory.list_too_large", "%s has %d bytes, more than %d", address, want.size, maxList)
	}
	cached := filepath.Join(c.cfg.Dir, want.sha256)
	if data, err := os.ReadFile(cached); err == nil && hashOf(data) == want.sha256 {
		return data, nil
	}
	got, err := c.get(ctx, address, want.size, nil)
	if err != nil {
		return nil, err
	}
	data := got.body
	if int64(len(data)) != want.size || hashOf(data) != want.sha256 {
		return nil, errs.New(errs.Unavailable, "kiln.advisory.list_mismatch",
			"%s is not what its signed release names: the mirror is being updated, or it was changed", address)
	}
	return data, writeFile(cached, data)
}

func unpack(data []byte, ext string) ([]Candidate, error) {
	var r io.Reader
	var err error
	if ext == ".gz" {
		r, err = gzip.NewReader(bytes.NewReader(data))
	} else {
		r, err = xz.NewReader(bytes.NewReader(data))
	}
	if err == nil {
		var all []Candidate
		if all, err = parsePackages(io.LimitReader(r, maxPackages)); err == nil {
			return all, nil
		}
	}
	return nil, errs.Wrap(err, errs.Invalid, "kiln.advisory.list_malformed", "cannot read a package list")
}

// conditional gets a file whose address stays while its text changes. The text is kept with its
// ETag and date, and asked for only if it changed.
func (c *Client) conditional(ctx context.Context, address string) ([]byte, error) {
	file := filepath.Join(c.cfg.Dir, hashOf([]byte(address)))
	header := http.Header{}
	old, oldErr := os.ReadFile(file)
	if meta, err := os.ReadFile(file + ".meta"); err == nil && oldErr == nil {
		etag, modified, _ := strings.Cut(string(meta), "\n")
		setIf(header, "If-None-Match", etag)
		setIf(header, "If-Modified-Since", modified)
	}
	got, err := c.get(ctx, address, maxRelease, header)
	if err != nil {
		return nil, err
	}
	if got.unchanged {
		return old, nil
	}
	// The validators go first: with them lost or torn, the next request is only not conditional.
	if err := os.Remove(file + ".meta"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := writeFile(file, got.body); err != nil {
		return nil, err
	}
	return got.body, writeFile(file+".meta", []byte(got.header.Get("ETag")+"\n"+got.header.Get("Last-Modified")))
}

// forget drops the validators of a file that could not be trusted: else a mirror that was bad once
// and mended with the same ETag would answer 304 for ever.
func (c *Client) forget(address string) {
	if err := os.Remove(filepath.Join(c.cfg.Dir, hashOf([]byte(address))+".meta")); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.cfg.Log.WithError(err).Warnf("cannot drop what is known of %s", address)
	}
}

func setIf(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

// answer is what a mirror said.
type answer struct {
	body      []byte
	header    http.Header
	unchanged bool // 304
}

// get reads at most limit bytes.
func (c *Client) get(ctx context.Context, address string, limit int64, header http.Header) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return answer{}, errs.Wrap(err, errs.Invalid, "kiln.advisory.mirror_malformed", "%q is no mirror address", address)
	}
	maps.Copy(req.Header, header)
	res, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return answer{}, away(err, address)
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusNotModified && len(header) > 0:
		return answer{unchanged: true}, nil
	case res.StatusCode == http.StatusNotFound:
		return answer{}, errs.New(errs.NotFound, "kiln.advisory.list_missing", "%s is not there", address)
	case res.StatusCode != http.StatusOK:
		return answer{}, errs.New(errs.Unavailable, "kiln.advisory.mirror_unavailable", "%s answers %s", address, res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return answer{}, away(err, address)
	}
	if int64(len(data)) > limit {
		return answer{}, errs.New(errs.Unavailable, "kiln.advisory.list_too_large", "%s answers more than %d bytes", address, limit)
	}
	c.cfg.Log.WithField("bytes", len(data)).Debugf("fetched %s", address)
	return answer{body: data, header: res.Header}, nil
}

func away(err error, address string) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the address is in the detail already
	}
	kind := errs.Unavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		kind = errs.Timeout
	case errors.Is(err, context.Canceled):
		kind = errs.Cancelled
	}
	return errs.Wrap(err, kind, "kiln.advisory.mirror_unavailable", "cannot read %s", address)
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// writeFile writes under another name and renames, so that no reader meets half a file.
func writeFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
