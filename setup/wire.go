package setup

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"weft/clientapi"
	clientapiapi "weft/clientapi/api"
	"weft/federationapi"
	"weft/internal/cluster"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/internal/upkeep"
	"weft/keyserver"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/mediaapi"
	"weft/roomserver"
	"weft/syncapi"
)

// parts are the components, wired to each other.
type parts struct {
	accounts clientapiapi.Accounts
	routes   [][]httpapi.Route
	// runners do the background work of each component until their context ends.
	runners map[string]func(context.Context) error
}

func (p *parts) add(name string, run func(context.Context) error, routes []httpapi.Route) {
	p.runners[name] = run
	if routes != nil {
		p.routes = append(p.routes, routes)
	}
}

// wire makes the components, each after those that it needs. Where two need
// each other, one gets a stand-in that is filled in before anything runs.
func (s *Server) wire(ctx context.Context) (*parts, error) {
	name := id.Server(s.cfg.ServerName)
	p := &parts{runners: make(map[string]func(context.Context) error)}
	p.add("upkeep", s.upkeep.Run, nil)
	p.add("bus", s.runBus, nil)
	s.upkeep.Add(upkeep.Task{Kind: "stream_times", Every: stream.NoteEvery, Run: func(ctx context.Context) (int64, error) {
		return 0, stream.Note(ctx, s.db, s.opts.Now())
	}})
	outbound, sync, users := &lateOutbound{}, &lateSync{}, &lateUsers{}

	shared := s.db.Dialect() == sqldb.Postgres
	// Nil interfaces where nobody shares.
	var roomShares roomserver.Shares
	var syncShares syncapi.Shares
	var outboundShares federationapi.Shares
	if c := s.shares(); c != nil {
		roomShares, syncShares, outboundShares = named{c}, c, c
	}
	rooms, err := roomserver.New(ctx, roomserver.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("roomserver"), Now: s.opts.Now, ServerName: name,
		Key: roomserver.Key{ID: s.key.ID, Private: s.key.Private}, Remote: s.fed, Keys: s.ring, Metrics: s.reg, Upkeep: s.upkeep, Verify: s.opts.Verify,
		UserExists: users.exists, Shared: shared, Shares: roomShares,
	})
	if err != nil {
		return nil, err
	}
	p.add("roomserver", rooms.Run, nil)

	keys, err := keyserver.New(ctx, keyserver.Config{
		DB: s.db, Bus: s.bus, Log: s.part("keyserver"), Now: s.opts.Now, ServerName: name,
		Rooms: s.events, Federation: s.fed, Outbound: outbound, Upkeep: s.upkeep, Shared: shared,
	})
	if err != nil {
		return nil, fmt.Errorf("keyserver: %w", err)
	}
	p.add("keyserver", keys.Run, nil)

	services, err := s.cfg.appservices()
	if err != nil {
		return nil, err
	}
	accounts, err := clientapi.New(ctx, clientapi.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("clientapi"), Now: s.opts.Now, ServerName: name, Metrics: s.reg, Upkeep: s.upkeep,
		Rooms: rooms, Directory: rooms, Keys: keys, ToDevice: keys, Backup: keys, Sync: sync, Outbound: outbound, Fed: s.fed,
		Registration: s.cfg.registration(), Appservices: services, WellKnown: s.cfg.wellKnown(), TURN: s.cfg.turn(),
		DefaultRoomVersion:  event.RoomVersion(s.cfg.Rooms.DefaultVersion),
		AccessTokenLifetime: time.Duration(s.cfg.Accounts.AccessTokenLifetime), Shared: shared,
	})
	if err != nil {
		return nil, fmt.Errorf("clientapi: %w", err)
	}
	p.accounts, users.Accounts = accounts, accounts
	p.add("clientapi", accounts.Run, accounts.Routes())

	syncer, err := syncapi.New(ctx, syncapi.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("syncapi"), Now: s.opts.Now, ServerName: name, Metrics: s.reg, Upkeep: s.upkeep,
		Accounts: accounts, Keys: keys, ToDevice: keys, Rooms: rooms, Outbound: outbound, Shared: shared, Shares: syncShares,
	})
	if err != nil {
		return nil, fmt.Errorf("syncapi: %w", err)
	}
	sync.Sync = syncer
	p.add("syncapi", syncer.Run, syncer.Routes())

	if slices.Contains(s.cfg.Components, "mediaapi") {
		media, err := mediaapi.New(ctx, mediaapi.Config{
			DB: s.db, Bus: s.bus, Log: s.part("mediaapi"), Now: s.opts.Now, ServerName: name,
			Dir: s.cfg.mediaPath(), InDatabase: s.mediaPlace() == mediaInDatabase,
			MaxUpload: int64(s.cfg.Media.MaxUpload), Scalers: max(1, runtime.GOMAXPROCS(0)/2), Remote: s.fed,
			LegacyDownloads: s.cfg.Media.LegacyDownloads, Upkeep: s.upkeep,
			RemoteLifetime: time.Duration(s.cfg.Media.RemoteLifetime),
		})
		if err != nil {
			return nil, err
		}
		p.add("mediaapi", media.Run, media.Routes())
	}

	federation, err := federationapi.New(ctx, federationapi.Config{
		DB: s.db, Events: s.events, Bus: s.bus, Log: s.part("federationapi"), Now: s.opts.Now, ServerName: name,
		KeyID: s.key.ID, PrivateKey: s.key.Private, Version: s.opts.Version, Transport: s.fed, Notary: s.ring,
		WellKnown: s.cfg.WellKnown.Server, OpenID: accounts.OpenIDUser,
		Rooms: rooms, Directory: rooms, Keys: keys, ToDevice: keys, Sync: sync, Accounts: accounts, Metrics: s.reg, Upkeep: s.upkeep,
		Shares: outboundShares,
	})
	if err != nil {
		return nil, err
	}
	outbound.Outbound = federation
	p.add("federationapi", federation.Run, federation.Routes())
	return p, nil
}

// named are shares of work that two may do at once: whoever is named does it, also before its lease begins, so that
// what a process that died left behind does not wait for the next one's lease.
type named struct{ *cluster.Cluster }

// Owns implements roomserver.Shares.
func (n named) Owns(component, key string) bool {
	owner, ok := n.Owner(component, key)
	return ok && owner.ID == n.Self().ID
}

func (c *Config) registration() clientapi.Registration {
	r := c.Registration
	return clientapi.Registration{Mode: r.Mode, Tokens: r.Tokens, SharedSecret: r.SharedSecret, Guests: r.Guests}
}

func (c *Config) wellKnown() clientapi.WellKnown {
	w := clientapi.WellKnown{
		ClientBaseURL: c.WellKnown.Client, IdentityServerURL: c.WellKnown.IdentityServer, SupportPage: c.WellKnown.SupportPage,
	}
	if contact := c.WellKnown.SupportContact; contact != "" {
		sc := clientapi.SupportContact{Role: "m.role.admin"}
		if strings.HasPrefix(contact, "@") {
			sc.MatrixID = contact
		} else {
			sc.Email = contact
		}
		w.SupportContacts = append(w.SupportContacts, sc)
	}
	return w
}

func (c *Config) turn() clientapi.TURN {
	t := c.TURN
	return clientapi.TURN{URIs: t.URIs, SharedSecret: t.SharedSecret, Username: t.Username, Password: t.Password, TTL: time.Duration(t.Lifetime)}
}
