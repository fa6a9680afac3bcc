package clientapi

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// Appservice is the registration of an application service.
//
// spec: application-service §2.2 (Registration)
type Appservice struct {
	ID              string     `yaml:"id"`
	URL             string     `yaml:"url"` // empty: nothing is sent to it
	ASToken         string     `yaml:"as_token"`
	HSToken         string     `yaml:"hs_token"`
	SenderLocalpart string     `yaml:"sender_localpart"`
	RateLimited     *bool      `yaml:"rate_limited"` // nil: it is
	ReceiveEphem    bool       `yaml:"receive_ephemeral"`
	Protocols       []string   `yaml:"protocols"`
	Namespaces      Namespaces `yaml:"namespaces"`
}

// Namespaces are what an application service is interested in.
type Namespaces struct {
	Users   []Namespace `yaml:"users"`
	Aliases []Namespace `yaml:"aliases"`
	Rooms   []Namespace `yaml:"rooms"`
}

// Namespace is a regular expression over whole IDs.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// ParseAppservice reads a registration file.
func ParseAppservice(file []byte) (Appservice, error) {
	var a Appservice
	if err := yaml.Unmarshal(file, &a); err != nil {
		return a, fmt.Errorf("the registration is not the YAML of one: %w", err)
	}
	switch {
	case a.ID == "":
		return a, errors.New("the registration has no id")
	case a.ASToken == "" || a.HSToken == "":
		return a, fmt.Errorf("the registration of %q needs an as_token and an hs_token", a.ID)
	case a.SenderLocalpart == "":
		return a, fmt.Errorf("the registration of %q has no sender_localpart", a.ID)
	}
	return a, nil
}

// appservices finds application services by token and by namespace.
type appservices struct {
	all    []*appservice
	tokens map[string]*appservice
}

type appservice struct {
	Appservice
	sender         id.User
	users, aliases []namespace
}

type namespace struct {
	exclusive bool
	re        *regexp.Regexp
}

func compileAppservices(list []Appservice, server id.Server) (*appservices, error) {
	out := &appservices{tokens: make(map[string]*appservice)}
	ids := make(map[string]bool)
	for _, a := range list {
		// spec: application-service §2.2: id and as_token must be unique
		if ids[a.ID] || out.tokens[a.ASToken] != nil {
			return nil, fmt.Errorf("application service %q: its id or as_token is used twice", a.ID)
		}
		ids[a.ID] = true
		sender, err := id.NewUser(a.SenderLocalpart, server)
		if err != nil {
			return nil, fmt.Errorf("application service %q: sender_localpart: %w", a.ID, err)
		}
		as := &appservice{Appservice: a, sender: sender}
		if as.users, err = compileNamespaces(a.Namespaces.Users); err != nil {
			return nil, fmt.Errorf("application service %q: users: %w", a.ID, err)
		}
		if as.aliases, err = compileNamespaces(a.Namespaces.Aliases); err != nil {
			return nil, fmt.Errorf("application service %q: aliases: %w", a.ID, err)
		}
		out.all = append(out.all, as)
		out.tokens[a.ASToken] = as
	}
	return out, nil
}

func compileNamespaces(list []Namespace) ([]namespace, error) {
	var out []namespace
	for _, n := range list {
		re, err := regexp.Compile("^(?:" + n.Regex + ")")
		if err != nil {
			return nil, fmt.Errorf("regular expression %q: %w", n.Regex, err)
		}
		out = append(out, namespace{exclusive: n.Exclusive, re: re})
	}
	return out, nil
}

func (a *appservices) byToken(token string) *appservice { return a.tokens[token] }

// ownsUser tells whether a user is in the service's namespace, or its sender.
func (a *appservice) ownsUser(u id.User) bool {
	return u == a.sender || matches(a.users, string(u))
}

func matches(list []namespace, s string) bool {
	for _, n := range list {
		if n.re.MatchString(s) {
			return true
		}
	}
	return false
}

func exclusive(list []namespace, s string) bool {
	for _, n := range list {
		if n.exclusive && n.re.MatchString(s) {
			return true
		}
	}
	return false
}

// reservedUser finds the application service, other than the one named, that
// reserves a user ID.
func (a *appservices) reservedUser(u id.User, except string) (string, bool) {
	for _, as := range a.all {
		if as.ID != except && (u == as.sender || exclusive(as.users, string(u))) {
			return as.ID, true
		}
	}
	return "", false
}

// reservedAlias is reservedUser for room aliases.
func (a *appservices) reservedAlias(alias id.RoomAlias, except string) (string, bool) {
	for _, as := range a.all {
		if as.ID != except && exclusive(as.aliases, string(alias)) {
			return as.ID, true
		}
	}
	return "", false
}

// createAppserviceUsers makes the sender account of each application service.
func (s *Server) createAppserviceUsers(ctx context.Context) error {
	for _, as := range s.appservices.all {
		err := s.CreateAccount(ctx, api.CreateAccount{User: as.sender, Appservice: as.ID})
		if err != nil && !errors.Is(err, merr.ErrUserInUse) {
			return fmt.Errorf("making the sender of application service %q: %w", as.ID, err)
		}
	}
	return nil
}

// authenticateAppservice lets an application service act as one of its users.
//
// spec: application-service §2.4.1 (Identity assertion)
func (s *Server) authenticateAppservice(ctx context.Context, as *appservice, req httpapi.Credentials) (api.Session, error) {
	sess := api.Session{User: as.sender, Appservice: as.ID,
		Unlimited: as.RateLimited != nil && !*as.RateLimited}
	if req.AsUser != "" {
		if !s.isLocal(req.AsUser) || !as.ownsUser(req.AsUser) {
			return api.Session{}, merr.Forbidden("%s is not in the application service's namespace", req.AsUser)
		}
		sess.User = req.AsUser
	}
	if strings.ContainsRune(string(sess.User), 0) {
		return api.Session{}, merr.Forbidden("the user ID holds a NUL character")
	}
	acc, err := getAccount(ctx, s.db, sess.User.Localpart())
	switch {
	case errors.Is(err, merr.ErrNotFound):
		return api.Session{}, merr.Forbidden("the application service has not registered %s", sess.User)
	case err != nil:
		return api.Session{}, err
	case acc.deactivated:
		return api.Session{}, merr.UserDeactivated("%s is deactivated", sess.User)
	case acc.locked:
		return api.Session{}, merr.UserLocked("%s is locked", sess.User)
	}
	sess.Suspended = acc.suspended
	if req.AsDevice == "" {
		return sess, nil
	}
	if err := checkText("device_id", string(req.AsDevice), maxDeviceID); err != nil {
		return api.Session{}, err
	}
	_, err = s.getDevice(ctx, sess.User, req.AsDevice)
	if errors.Is(err, merr.ErrNotFound) {
		return api.Session{}, merr.UnknownDevice("%s has no device %q", sess.User, string(req.AsDevice)).WithStatus(400)
	}
	if err != nil {
		return api.Session{}, err
	}
	sess.Device = req.AsDevice
	return sess, nil
}
