package upgrade

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Repository is one rpm repository that an upgrade takes fixes from.
type Repository struct {
	ID      string `json:"id"`       // as in brackets in a .repo file
	BaseURL string `json:"base_url"` // the folder that has repodata/, with its variables filled in
	Keys    string `json:"keys"`     // file with the public keys that packages must be signed with
	// Unsigned says that the repository's metadata has no signature (repomd.xml.asc). Packages always need one.
	Unsigned bool `json:"unsigned"`
}

var repositoryID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$`)

// Problem says why nothing can be fetched from the repository, for an error; "" where it is well. What it lets through is
// safe as a value of dnf's configuration.
func (r Repository) Problem() string {
	if !repositoryID.MatchString(r.ID) || r.ID == "main" {
		return fmt.Sprintf("%.100q is no name of a repository", r.ID)
	}
	u, err := url.Parse(r.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.ContainsAny(r.BaseURL, " \t\r\n[]#,$") {
		return fmt.Sprintf("%q is no http address of a repository", r.BaseURL)
	}
	if r.Keys == "" {
		return fmt.Sprintf("the repository %s has no file of keys", r.ID)
	}
	return ""
}
