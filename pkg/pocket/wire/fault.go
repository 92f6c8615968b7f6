package wire

import (
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Match picks requests. Empty parts match everything.
type Match struct {
	Service    string // identity, image, compute, placement, container
	Method     string
	PathPrefix string // below the service's prefix
	PathSuffix string // e.g. "/file"
}

func (m Match) fits(r *Request) bool {
	return (m.Service == "" || m.Service == r.Service) &&
		(m.Method == "" || m.Method == r.Method) &&
		strings.HasPrefix(r.Path, m.PathPrefix) && strings.HasSuffix(r.Path, m.PathSuffix)
}

// Fault is what happens to a request that matches. Delay comes first; then either the answer (Status) or a
// cut. With none of them the connection is dropped at once, like that of a process that died.
type Fault struct {
	Delay        time.Duration
	Status       int
	Header       http.Header
	Body         string
	CutRequest   int64 // > 0: the connection breaks after the service read so many bytes of the body
	CutResponse  int64 // > 0: the connection breaks after so many bytes of the answer's body
	AfterServing bool  // the service does its work, and the answer is lost
	DelayOnly    bool  // only the delay; the service answers as usual
}

// Faults are the faults that wait for their request. The zero value is ready. Safe for many goroutines.
type Faults struct {
	mu   sync.Mutex
	list []*armed
}

type armed struct {
	match Match
	fault Fault
	left  int // < 0: until cleared
}

// Add arms a fault for the next so many matching requests; times < 0 until Clear. The first armed goes first.
func (f *Faults) Add(m Match, fault Fault, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, &armed{match: m, fault: fault, left: times})
}

// Clear disarms everything.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = nil
}

func (f *Faults) take(r *Request) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.list {
		if a.left == 0 || !a.match.fits(r) {
			continue
		}
		if a.left > 0 {
			a.left--
		}
		return a.fault, true
	}
	return Fault{}, false
}

// apply acts before the service sees the request; true where the request ends here.
func (f Fault) apply(m *meter) bool {
	if f.Delay > 0 {
		time.Sleep(f.Delay)
	}
	switch {
	case f.DelayOnly:
		return false
	case f.Status != 0:
		maps.Copy(m.Header(), f.Header)
		if m.Header().Get("Content-Type") == "" {
			m.Header().Set("Content-Type", "application/json")
		}
		m.WriteHeader(f.Status)
		_, _ = m.Write([]byte(f.Body))
		return true
	case f.CutRequest > 0:
		m.body.cut = f.CutRequest
		return false
	case f.CutResponse > 0:
		m.cut = f.CutResponse
		return false
	case f.AfterServing:
		m.mute = true
		return false
	}
	m.lost = true
	return true
}
