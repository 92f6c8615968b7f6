package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/catalog/inspect"
	"github.com/kiln-cloud/kiln/pkg/disk/remote"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/glance"
)

// cost is what one image took beside its time.
type cost struct {
	bytes     int64
	questions int64
	packages  int
}

// counted adds up what is read through it.
type counted struct {
	io.ReaderAt
	n, bytes int64
}

// ReadAt implements io.ReaderAt.
func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.n++
	c.bytes += int64(n)
	return n, err
}

// check holds facts against the image: each variant has a version of its own.
func check(m image, f *catalog.Facts) (int, error) {
	for _, p := range f.Packages {
		if p.Name == "tzdata" && p.Version == string(m.version) {
			return len(f.Packages), nil
		}
	}
	return 0, fmt.Errorf("the facts have no tzdata %s", m.version)
}

func local(ctx context.Context, _ int, m image) (cost, error) {
	r := &counted{ReaderAt: m}
	f, err := inspect.Collect(ctx, r, m.size, "qcow2")
	if err != nil {
		return cost{}, err
	}
	n, err := check(m, f)
	return cost{r.bytes, r.n, n}, err
}

func localAll(ctx context.Context, _ int, m image) (cost, error) {
	r := &counted{ReaderAt: m}
	f, err := inspect.Read(ctx, r, m.size, "qcow2")
	if err != nil {
		return cost{}, err
	}
	n, err := check(m, f)
	return cost{r.bytes, r.n, n}, err
}

// server is a Glance with the images of the set, and a Keystone that lets everybody in.
type server struct {
	http    *http.Server
	glance  *glance.Client
	url     string
	latency atomic.Int64
}

func serve(s *set) (*server, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	out := &server{url: "http://" + l.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/auth/tokens", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Subject-Token", "token")
		w.WriteHeader(http.StatusCreated)
		now := time.Now().UTC()
		fmt.Fprintf(w, `{"token":{"expires_at":%q,"issued_at":%q,"project":{"id":"p"},"catalog":[{"type":"image","endpoints":[{"interface":"public","url":%q}]}]}}`, //nolint:errcheck // who asks sees it
			now.Add(time.Hour).Format(time.RFC3339), now.Format(time.RFC3339), out.url)
	})
	mux.HandleFunc("GET /v2/images/{id}/file", func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(r.PathValue("id"))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		time.Sleep(time.Duration(out.latency.Load()))
		m := s.image(i)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(m, 0, m.size))
	})
	out.http = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go out.http.Serve(l) //nolint:errcheck // ends with Close
	conn, err := openstack.Connect(context.Background(), openstack.Config{AuthURL: out.url, Username: "bench", Password: "bench", ProjectName: "bench", Interface: "public"})
	if err != nil {
		return nil, err
	}
	out.glance = glance.New(conn)
	return out, nil
}

// Close ends the server.
func (s *server) Close() { s.http.Close() } //nolint:errcheck // the program ends

func (s *server) ranges(ctx context.Context, i int, m image) (cost, error) {
	r := remote.New(ctx, s.glance.Ranges(strconv.Itoa(i), m.size), m.size, remote.Options{})
	f, err := inspect.Collect(ctx, r, m.size, "qcow2")
	if err != nil {
		return cost{}, err
	}
	n, err := check(m, f)
	return cost{r.Stats().Bytes, r.Stats().Questions, n}, err
}

// slowly is ranges from a server that thinks before each answer.
func (s *server) slowly(ctx context.Context, i int, m image) (cost, error) {
	s.latency.Store(int64(5 * time.Millisecond))
	defer s.latency.Store(0)
	return s.ranges(ctx, i, m)
}

// whole fetches the image into a file, and reads that.
func (s *server) whole(dir string) func(ctx context.Context, i int, m image) (cost, error) {
	return func(ctx context.Context, i int, m image) (cost, error) {
		body, err := s.glance.Download(ctx, strconv.Itoa(i), 0)
		if err != nil {
			return cost{}, err
		}
		defer body.Close() //nolint:errcheck // only read
		f, err := os.Create(filepath.Join(dir, "whole"))
		if err != nil {
			return cost{}, err
		}
		defer f.Close() //nolint:errcheck // read again below
		size, err := io.Copy(f, body)
		if err != nil {
			return cost{}, err
		}
		facts, err := inspect.Collect(ctx, f, size, "qcow2")
		if err != nil {
			return cost{}, err
		}
		n, err := check(m, facts)
		return cost{size, 1, n}, err
	}
}

// virtInspector reads the file itself: what it finds is not compared.
func virtInspector(ctx context.Context, _ int, m image) (cost, error) {
	cmd := exec.CommandContext(ctx, "virt-inspector", "--no-icon", "--format=qcow2", "-a", m.Name())
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	cmd.Stderr = os.Stderr
	_, err := cmd.Output()
	return cost{}, err
}
