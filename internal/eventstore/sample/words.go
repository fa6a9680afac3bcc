package sample

func firstNames() []string {
	return []string{"Alice", "Bob", "Carol", "David", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy", "Karl", "Lena", "Mallory", "Nina", "Oscar",
		"Peggy", "Quentin", "Rita", "Sven", "Trent", "Ursula", "Victor", "Wendy", "Xavier", "Yara", "Zoe"}
}

func servers() []string {
	return []string{"matrix.org", "matrix.org", "matrix.org", "example.org", "example.com", "mozilla.org", "kde.org", "gnome.org", "fedora.im", "chat.example.net"}
}

func topics() []string {
	return []string{"General", "Random", "Announcements", "Support", "Development", "Off-topic", "Team", "Family", "Music", "Books"}
}

// sentences are what people say, by language.
func sentences() [][]string {
	return [][]string{
		{
			"hello everyone", "good morning", "has anyone seen this error before?", "I will have a look at it tomorrow", "thanks a lot!", "that works for me",
			"what do you think about the new release?", "could you send me the link again?", "I have just pushed a fix to the branch", "let me know when you are ready",
			"the server is down again", "it should be possible to configure this in the settings", "yes, that is what I meant", "no idea, sorry", "see you later",
			"please have a look at https://github.com/example/project/issues/123", "because there is no other way to do that", "we could meet at the station at eight",
			"I don't know if this is the right place to ask", "which version are you using?", "ok", "lol", "it is not that I would not want to, but we have to wait",
		},
		{
			"hallo zusammen", "guten Morgen", "hat das schon mal jemand gesehen?", "ich schaue es mir morgen an", "vielen Dank!", "das funktioniert bei mir",
			"was haltet ihr von der neuen Version?", "kannst du mir den Link noch einmal schicken?", "der Server ist schon wieder nicht erreichbar",
			"ja, genau das meinte ich", "keine Ahnung, leider", "bis später", "wir treffen uns um acht am Bahnhof", "weil es nicht anders geht", "welche Version benutzt du?",
		},
		{
			"bonjour à tous", "merci beaucoup !", "je vais regarder ça demain", "est-ce que quelqu'un a déjà vu cette erreur ?", "oui, c'est ce que je voulais dire",
			"le serveur ne répond plus", "tu peux renvoyer le lien ?", "à plus tard", "je ne sais pas, désolé", "c'est possible dans les paramètres",
		},
		{
			"hola a todos", "muchas gracias", "lo miro mañana", "¿alguien ha visto este error?", "sí, eso es lo que quería decir", "no lo sé, lo siento", "hasta luego",
		},
	}
}
