// Package keystone is the identity service of the pocket cloud: the Keystone v3 API as far as Kiln, its tests
// and gophercloud use it. It answers like Keystone 22 (Zed): https://docs.openstack.org/api-ref/identity/v3/.
package keystone

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// Endpoint is one service of the first catalog.
type Endpoint struct {
	Type, Name, URL string
}

// Options are what an operator would have set up with keystone-manage bootstrap.
type Options struct {
	Password  string        // of every seeded user
	TokenLife time.Duration // how long a new token lives
	Catalog   []Endpoint
}

// Service is the identity service with its state in memory. Safe for many goroutines.
type Service struct {
	kit  wire.Kit
	opts Options

	mu        sync.Mutex
	domains   *collection
	projects  *collection
	users     *collection
	roles     *collection
	services  *collection
	endpoints *collection
	regions   *collection
	passwords map[string]string   // user id to password
	implied   map[string][]string // role id to the ids that it implies
	grants    []grant
	appCreds  map[string]*appCred
	tokens    map[string]*token
}

// New makes the service with its seeded users, projects, roles and catalog.
func New(kit wire.Kit, opts Options) *Service {
	s := &Service{
		kit: kit, opts: opts,
		passwords: map[string]string{}, implied: map[string][]string{},
		appCreds: map[string]*appCred{}, tokens: map[string]*token{},
	}
	s.makeCollections()
	s.seed()
	return s
}

// SetTokenLife changes how long tokens live that are made from now on.
func (s *Service) SetTokenLife(life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.TokenLife = life
}

// ExpireTokens makes every token of a user expire now; all users' with "".
func (s *Service) ExpireTokens(userName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if userName == "" || s.users.text(t.userID, "name") == userName {
			t.expires = s.kit.Clock().Add(-time.Second)
		}
	}
}

// SetEndpoint adds or replaces a service in the catalog, all three interfaces with one URL.
func (s *Service) SetEndpoint(e Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setEndpoint(e)
}

// apiError is an error as Keystone answers it.
type apiError struct {
	status  int
	message string
	methods []string // for a 401 that names the methods there are
}

func (e *apiError) Error() string { return e.message }

func fail(status int, format string, args ...any) *apiError {
	return &apiError{status: status, message: fmt.Sprintf(format, args...)}
}

var errUnauthorized = fail(http.StatusUnauthorized, "The request you have made requires authentication.")

func notFound(what, id string) *apiError {
	return fail(http.StatusNotFound, "Could not find %s: %s.", what, id)
}

// answer is a successful response.
type answer struct {
	status int
	body   any
	header map[string]string
}

type handler func(r *http.Request, t *token) (answer, error)

// route runs a handler that needs a valid token; rule is the policy rule's name for the 403's text.
func (s *Service) route(check func(r *http.Request, t *token) bool, rule string, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		t := s.find(r.Header.Get("X-Auth-Token"))
		if t == nil {
			s.fail(w, errUnauthorized)
			return
		}
		if check != nil && !check(r, t) {
			s.fail(w, fail(http.StatusForbidden, "You are not authorized to perform the requested action: %s.", rule))
			return
		}
		s.run(w, r, t, h)
	}
}

func (s *Service) open(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.run(w, r, nil, h)
	}
}

func (s *Service) run(w http.ResponseWriter, r *http.Request, t *token, h handler) {
	a, err := h(r, t)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Vary", "X-Auth-Token")
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	wire.WriteJSON(w, a.status, a.body)
}

func (s *Service) fail(w http.ResponseWriter, err error) {
	e, ok := err.(*apiError) //nolint:errorlint // handlers make it themselves and never wrap it
	if !ok {
		e = fail(http.StatusBadRequest, "%s", err.Error())
	}
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Keystone uri="`+s.kit.URL+`/v3"`)
	}
	w.Header().Set("Vary", "X-Auth-Token")
	body := doc{"code": e.status, "message": e.message, "title": http.StatusText(e.status)}
	if e.methods != nil {
		body["identity"] = doc{"methods": e.methods}
	}
	wire.WriteJSON(w, e.status, doc{"error": body})
}

// Handler is the service's API, below its prefix.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.open(s.listVersions))
	mux.HandleFunc("GET /v3", s.open(s.showVersion))
	mux.HandleFunc("GET /v3/{$}", s.open(s.showVersion))
	mux.HandleFunc("POST /v3/auth/tokens", s.open(s.createToken))
	mux.HandleFunc("GET /v3/auth/tokens", s.route(s.mayValidate, "identity:validate_token", s.showToken)) // and HEAD
	mux.HandleFunc("DELETE /v3/auth/tokens", s.route(s.mayRevoke, "identity:revoke_token", s.revokeToken))
	mux.HandleFunc("GET /v3/auth/catalog", s.route(nil, "", s.showCatalog))
	mux.HandleFunc("GET /v3/auth/projects", s.route(nil, "", s.listOwnProjects))
	mux.HandleFunc("GET /v3/users/{id}/projects", s.route(s.selfOrAdmin, "identity:list_user_projects", s.listUserProjects))
	for _, c := range []*collection{s.domains, s.projects, s.users, s.roles, s.services, s.endpoints, s.regions} {
		s.serveCollection(mux, c)
	}
	s.serveGrants(mux)
	s.serveAppCreds(mux)
	mux.HandleFunc("/", s.open(func(*http.Request, *token) (answer, error) {
		return answer{}, fail(http.StatusNotFound, "The requested URL was not found on the server. "+
			"If you entered the URL manually please check your spelling and try again.")
	}))
	return mux
}

func (s *Service) listVersions(*http.Request, *token) (answer, error) {
	url := s.kit.URL + "/v3/"
	return answer{http.StatusMultipleChoices, map[string]any{"versions": map[string]any{"values": []any{s.version(url)}}},
		map[string]string{"Location": url}}, nil
}

func (s *Service) showVersion(*http.Request, *token) (answer, error) {
	return answer{http.StatusOK, map[string]any{"version": s.version(s.kit.URL + "/v3/")}, nil}, nil
}

func (s *Service) version(url string) any {
	return map[string]any{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []any{map[string]string{"rel": "self", "href": url}},
		"media-types": []any{map[string]string{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}
